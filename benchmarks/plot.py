def svg(*a):
    return ""
