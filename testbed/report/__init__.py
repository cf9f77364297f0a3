"""Read run folders into data frames, and summarise them; nothing here starts a run or prints."""
