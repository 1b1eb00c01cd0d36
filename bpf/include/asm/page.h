/* Wanted by BCC; generated programs take the page size as a constant of the target. */
