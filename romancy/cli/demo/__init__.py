"""The demo: orders that are all fulfilled, or taken back, although their process is killed again and again.

::

    command.py     the subcommand: options, directory, exit status
    driver.py      starts orders, answers for the approver, kills and restarts the process
    process.py     the other process, as the driver sees it
    worker.py      the other process itself
    workflow.py    the workflow and its activities
    ledger.py      what the activities did, on paper: it survives every kill
    orders.py      the orders, read from ``examples/orders.csv``
    evidence.py    what is left when all is over: histories, ledger, kills
    checks.py      what must hold of that
    report.py      how it is told
    screen.py      what is shown while it runs
"""
