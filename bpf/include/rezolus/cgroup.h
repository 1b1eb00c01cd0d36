/*
 * The row of a task's cgroup, and what is done when the kernel gave an id to a new cgroup.
 *
 * The unit defines before: struct cgroup_row (first word `serial`), its map and cgroup_row_at(); REZOLUS_CGROUP_WORDS,
 * the words of a row; REZOLUS_CGROUP_ROWS; the offsets REZOLUS_GROUP_CGROUP (of css.cgroup in task_group),
 * REZOLUS_CGROUP_LEVEL, REZOLUS_CGROUP_KN, REZOLUS_KN_NAME, REZOLUS_KN_PARENT, REZOLUS_KN_ID.
 */
#ifndef REZOLUS_CGROUP_H
#define REZOLUS_CGROUP_H

struct cgroup_name {
    u64 serial; /* written last: the rest is complete */
    u64 id;     /* of the kernfs node: the directory's inode number */
    u64 level;
    char own[64];
    char parent[64];
    char grandparent[64];
};

/* BCC translates map operations only in the unit itself, not in headers. */
static inline struct cgroup_name *cgroup_name_at(u32 index);

#define REZOLUS_ROOT_CGROUP 1

static inline u64 rezolus_word(u64 address)
{
    u64 word = 0;
    bpf_probe_read_kernel(&word, sizeof(word), (void *)address);
    return word;
}

/* Fills in the names of a cgroup from its directory upwards. */
static inline void rezolus_name_cgroup(u32 index, u64 serial, u64 group)
{
    struct cgroup_name *row = cgroup_name_at(index);
    u64 cgroup = rezolus_word(group + REZOLUS_GROUP_CGROUP);
    if (!row || !cgroup)
        return;
    u32 level = 0;
    bpf_probe_read_kernel(&level, sizeof(level), (void *)(cgroup + REZOLUS_CGROUP_LEVEL));
    u64 node = rezolus_word(cgroup + REZOLUS_CGROUP_KN);
    u64 above = level > 0 ? rezolus_word(node + REZOLUS_KN_PARENT) : 0;
    u64 top = level > 1 ? rezolus_word(above + REZOLUS_KN_PARENT) : 0;
    row->serial = 0;
    row->id = rezolus_word(node + REZOLUS_KN_ID);
    row->level = level;
    row->own[0] = row->parent[0] = row->grandparent[0] = 0;
    bpf_probe_read_kernel_str(row->own, sizeof(row->own), (void *)rezolus_word(node + REZOLUS_KN_NAME));
    if (above)
        bpf_probe_read_kernel_str(row->parent, sizeof(row->parent), (void *)rezolus_word(above + REZOLUS_KN_NAME));
    if (top)
        bpf_probe_read_kernel_str(row->grandparent, sizeof(row->grandparent),
                                  (void *)rezolus_word(top + REZOLUS_KN_NAME));
    asm volatile("" ::: "memory");
    row->serial = serial;
}

/*
 * Starts a row anew for a cgroup seen for the first time. Two CPUs may do so at once; both write the same,
 * and what is lost is what one of them had counted in the microsecond between.
 */
static inline void rezolus_new_cgroup(struct cgroup_row *row, u32 index, u64 serial, u64 group)
{
    /* The root is always the same cgroup, and autogroups may have been counted there before it was seen itself. */
    if (index != REZOLUS_ROOT_CGROUP)
        rezolus_clear((u64 *)row, 1, REZOLUS_CGROUP_WORDS);
    if (index)
        rezolus_name_cgroup(index, serial, group);
    asm volatile("" ::: "memory");
    row->serial = serial;
}

/*
 * The row of a task group by the id and serial number of its css. Ids without a row share row 0, whose serial
 * is 1. Autogroups have an empty css: they belong to the root.
 */
static inline struct cgroup_row *rezolus_cgroup_row(u64 group, s32 id, u64 serial)
{
    u32 index = (u32)id;
    if (unlikely(index >= REZOLUS_CGROUP_ROWS)) {
        index = 0;
        serial = 1;
    } else if (unlikely(!index)) {
        return cgroup_row_at(REZOLUS_ROOT_CGROUP);
    }
    struct cgroup_row *row = cgroup_row_at(index);
    if (row && unlikely(row->serial != serial))
        rezolus_new_cgroup(row, index, serial, group);
    return row;
}

#endif
