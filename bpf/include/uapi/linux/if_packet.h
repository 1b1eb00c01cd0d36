/* Wanted by the packet helpers of BCC, which generated programs do not use. */
