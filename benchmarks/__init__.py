"""Speed and coverage claims, measured: `make bench`. Timings are whole processes, compared in pairs within one run."""
