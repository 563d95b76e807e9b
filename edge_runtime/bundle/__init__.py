"""The bundle: the one thing that the host hands to the device."""
