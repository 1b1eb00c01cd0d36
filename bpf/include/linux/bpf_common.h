/* BCC's bpf.h wants the classic BPF encoding constants only in inline assembly helpers that we never use. */
