from modules.scores import java
PUNCTUATION = frozenset(["''","'","``","`","-LRB-","-RRB-","-LCB-","-RCB-",".","?","!",",",":","-","--","...",";"])
def captions(lines):
    return [" ".join(w for w in l.rstrip().split(" ") if w not in PUNCTUATION) for l in java.stanford(lines)]
def in_use(): return "stanford"
