"""The replay core: releases in, turns out. No I/O, no clock, no threads."""
