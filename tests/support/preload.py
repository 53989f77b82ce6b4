"""What a process is forked from, see `forked`: imports that the verbs need; no thread of TensorFlow's is started."""

import h5py  # noqa: F401
import openvino  # noqa: F401
import scipy.optimize  # noqa: F401
import sklearn.linear_model  # noqa: F401

from extract import run  # noqa: F401
from extract.ground import tensorflow
from heads import train  # noqa: F401

tensorflow.load()
