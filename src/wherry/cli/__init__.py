"""The wherry command: parsing and printing. What it does, the client room can do."""
