"""The checked program to what will run: one program per hook, the layout of everything it writes, the schema."""
