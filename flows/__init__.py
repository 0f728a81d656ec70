"""The application: settings, the wired flow, and the processes and commands around it."""
