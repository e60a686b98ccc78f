"""What every room stands on and no paper names: files, paths, the machine, the meter."""
