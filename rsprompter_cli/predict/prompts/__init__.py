"""`rsp predict --prompts`: SAM asked with points and boxes."""
