"""What a web request says about its visitor."""
