/* Wanted by BCC's stack trace macros, which generated programs do not use. */
