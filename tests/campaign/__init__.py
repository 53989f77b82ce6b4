"""Faults and odd files: kills, full disks, damage, mutated images."""
