"""The benchmark: what is measured (``subjects``, ``peers``), how (``rounds``, ``fresh``, ``run``), on what
(``machine``), and how it is told (``report``, ``render``). ``loopback`` measures from sound to decision.
"""
