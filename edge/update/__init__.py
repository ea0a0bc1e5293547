"""Models over the air: publishing them signed, fetching them, and the folder of versions on a device."""
