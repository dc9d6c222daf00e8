"""Policies behind a websocket, in the wire format of openpi."""
