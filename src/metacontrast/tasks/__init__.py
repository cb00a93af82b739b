"""Families of tasks to learn to learn on."""

from ._sine import sine as sine
