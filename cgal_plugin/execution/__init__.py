"""Run tasks on processes of this machine or on Parsl workers."""
