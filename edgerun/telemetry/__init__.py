"""What a device says to the world and hears from it: topics, messages, metrics, commands, and the MQTT link."""
