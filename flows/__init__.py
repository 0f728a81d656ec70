"""Wiring: settings, the flow, the processes and commands around it."""
