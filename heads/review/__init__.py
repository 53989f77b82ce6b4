"""Label review in the browser: the answers on disk, the order of the queues, the small server and its page."""
