"""What stage 2 adds to stage 1, what each of its parts is worth, and whether plain training would have done as well."""
