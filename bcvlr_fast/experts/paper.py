"""The experts of the paper, to compare with."""

PAPER_EXPERT = {
    "bigfish": 36.3,
    "bossfight": 11.6,
    "caveflyer": 9.2,
    "chaser": 10.0,
    "climber": 10.2,
    "coinrun": 9.9,
    "dodgeball": 13.5,
    "fruitbot": 29.9,
    "heist": 9.7,
    "jumper": 8.5,
    "leaper": 7.4,
    "maze": 10.0,
    "miner": 11.9,
    "ninja": 9.5,
    "plunder": 11.5,
    "starpilot": 67.0,
    "point_mass_easy": 885.0,
    "reacher_easy": 975.0,
    "reacher_hard": 967.0,
    "finger_spin": 981.0,
    "ball_in_cup_catch": 986.0,
    "cheetah_run_backward": 389.0,
    "jaco_reach_top_right": 198.0,
    "jaco_reach_bottom_left": 203.0,
}
"""Mean return of the expert in the paper (tables 1 and 2), by task."""
