"""Files: fetched with a guard, measured in a cage, stored whole, served as bytes and nothing more."""
