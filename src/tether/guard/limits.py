"""Every time limit of the reaper and its shims, in seconds."""

ROUND_PAUSE_S = 0.005
"""Between two rounds of SIGKILL: long enough not to list a dying tree over and over, short enough to catch what re-forks."""

LONGEST_ROUND_PAUSE_S = 1.0
"""To this the pause grows while members do not die (uninterruptible sleep, another user's process)."""

STUCK_AFTER_S = 2.0
"""After so long under SIGKILL a member is reported as stuck."""

CGROUP_AFTER_S = 0.1
"""After so long under SIGKILL the cgroup is used, against what forks faster than it is killed."""

POLITE_AGAIN_S = 2.0
"""The first pause before the polite signal is sent again; it doubles each time."""

PORTABLE_LOOK_S = 0.01
"""How often the portable path looks at the process table in the first seconds of a tree."""

PORTABLE_IDLE_LOOK_S = 0.1
"""How often it looks later."""

PORTABLE_YOUNG_S = 3.0
"""For how long a tree counts as young there."""

CONTINUE_AGAIN_S = 1.0
"""How often the reaper of a dead owner sends SIGCONT to shims that are still ending their trees."""

HELLO_S = 20.0
"""How long an owner waits for the reaper or a shim to say that it is armed."""

MEETING_S = 1.0
"""How long a shim listens to somebody who wants to adopt its tree."""
