"""Hours of continuous sound with known events, and how well a listener recognises them."""
