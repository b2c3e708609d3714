"""How good a model is: metrics with intervals by event, calibration, the recall-first threshold, slices, figures and the report.

Arrays and frames in, numbers, frames and figures out; no file is opened here. `calibration` needs numpy alone, so that
serving may import it.
"""
