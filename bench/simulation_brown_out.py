"""Benchmark 10 as a simulation of traffic: see ``simulation``."""

from simulation import main

if __name__ == "__main__":
    main("brown-out")
