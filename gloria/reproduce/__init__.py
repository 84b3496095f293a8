"""Reproduce: the tables of the GLoRIA talk, by one command, on the data at hand."""

from gloria.reproduce.budget import FULL, QUICK, Budget
from gloria.reproduce.page import write_page
from gloria.reproduce.run import reproduce
from gloria.reproduce.suites import SUITES

__all__ = ["FULL", "QUICK", "SUITES", "Budget", "reproduce", "write_page"]
