"""Where state is kept that outlives a process or belongs to several."""
