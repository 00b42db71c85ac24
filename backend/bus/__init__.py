"""How servers reach each other: in the memory of one process, or through Redis.

    memory     one process; a server on its own
    redis      several servers: the face of the modules below
    messages   what servers write to each other
    link       the connections of a server to Redis: its inbox and its presence
    answers    what a server does for the others
    relay      a recording that is sent to another server
    requests   what a server asks of the others
    progress   how far a relayed recording has come, so that another server can go on with it

Every server has one list in Redis, its inbox, into which the others write requests, answers and blocks of recordings.
So a server needs one connection that waits, however many executions it follows. Nothing in Redis has to survive:
a loss is noticed (a number is missing, or the connection broke), and what was lost is requested again.
"""
