"""What the watch of live predictions is worth: false alarms, detection, and what it costs."""
