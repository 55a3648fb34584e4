"""Tests of rtunnel; the folders mirror the source."""
