"""What is wrong on this device, and what to do: small checks, each bounded in time, none of which ends the others."""
