"""Tests of the audit events and their file."""
