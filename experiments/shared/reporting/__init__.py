"""From numbers to intervals, captions and pictures; and the published numbers beside them."""
