// SPDX-License-Identifier: Apache-2.0
/* Stands in for libFuzzer: runs each file of the folders (or files) given once. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END) != 0) {
		perror(path);
		return 1;
	}
	size_t n = (size_t)ftell(file);
	rewind(file);
	/* Exactly as large as the input, so that a read past its end is seen. */
	uint8_t *data = malloc(n);
	int failed = fread(data, 1, n, file) != n;
	fclose(file);
	if (!failed)
		LLVMFuzzerTestOneInput(data, n);
	free(data);
	return failed;
}

int main(int argc, char **argv)
{
	int run = 0;

	for (int i = 1; i < argc; i++) {
		DIR *dir = opendir(argv[i]);
		for (struct dirent *e; dir && (e = readdir(dir));) {
			char path[4096];
			if (e->d_name[0] == '.')
				continue;
			snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
			if (replay(path))
				return 1;
			run++;
		}
		if (dir)
			closedir(dir);
		else if (replay(argv[i]))
			return 1;
		else
			run++;
	}
	printf("%d inputs\n", run);
	return run == 0;
}
