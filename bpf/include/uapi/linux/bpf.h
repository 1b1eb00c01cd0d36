/* BCC brings its own bpf.h under another name; this one only has to exist. */
