"""Tables and figures made from rows alone; nothing here holds a model or imports torch."""
