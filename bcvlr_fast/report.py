def write(run, evaluation): pass
