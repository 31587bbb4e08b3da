// A stand-in for a library with the ABI that MPI 5 fixes for all makers, for one process: every handle and constant is checked against the MPI Forum's header, so that one of another ABI is refused. What it
// can't show is whether a real library does what it says; tests/mpi.rs runs MPICH's too, where it is installed.
//
// STAND_IN, a list like "abi=0 threads=0", sets the version of the ABI and what the library can do.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, ERR_TYPE = 3, ERR_COMM = 5, ERR_RANK = 6, ERR_ARG = 13, ERR_OTHER = 16 };
static const uintptr_t WORLD = 0x101, BYTE = 0x247, ERRORS_RETURN = 0x142;
static int started;

static int setting(const char* name, int otherwise) {
    const char* at = getenv("STAND_IN") ? strstr(getenv("STAND_IN"), name) : NULL;
    return at ? atoi(at + strlen(name)) : otherwise;
}

int MPI_Abi_get_version(int* major, int* minor) { return *major = setting("abi=", 1), *minor = 0, OK; }
int MPI_Get_library_version(char* text, int* length) { return *length = sprintf(text, "A stand-in of no maker\n"), OK; }
int MPI_Get_processor_name(char* text, int* length) { return *length = sprintf(text, "here"), OK; }
int MPI_Initialized(int* flag) { return *flag = started, OK; }
// The number of the thread level is another one than elsewhere.
int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
    if (argc || argv || required != 2048) return ERR_ARG;
    started = 1, *provided = setting("threads=", 4096);
    return OK;
}
int MPI_Finalize(void) {
    printf("> the library has ended\n");
    fflush(stdout);
    return OK;
}
int MPI_Comm_rank(uintptr_t comm, int* rank) { return comm == WORLD && started ? (*rank = 0, OK) : ERR_COMM; }
int MPI_Comm_size(uintptr_t comm, int* size) { return comm == WORLD && started ? (*size = 1, OK) : ERR_COMM; }
int MPI_Comm_set_errhandler(uintptr_t comm, uintptr_t handler) {
    return comm != WORLD ? ERR_COMM : handler != ERRORS_RETURN ? ERR_ARG : OK;
}
int MPI_Error_string(int status, char* text, int* length) { return *length = sprintf(text, "class %d", status), OK; }
// There is nobody to send to.
static int send(int count, uintptr_t type, uintptr_t comm) { return type != BYTE ? ERR_TYPE : comm != WORLD || count < 0 ? ERR_COMM : ERR_RANK; }
int MPI_Isend(const void* from, int count, uintptr_t type, int to, int tag, uintptr_t comm, uintptr_t* request) { return send(count, type, comm); }
int MPI_Irecv(void* to, int count, uintptr_t type, int from, int tag, uintptr_t comm, uintptr_t* request) { return send(count, type, comm); }
int MPI_Test(uintptr_t* request, int* flag, void* status) { return status ? ERR_ARG : ERR_OTHER; }
