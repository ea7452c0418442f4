"""What is looked at, of settings, data, a model, a run and a text; each check gives a finding or nothing."""
