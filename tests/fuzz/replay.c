// SPDX-License-Identifier: Apache-2.0
/*
 * replay - runs a fuzz target over files, and over all files of directories, named on the command
 * line: what ctest does with the corpus where there is no libFuzzer.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned input_count;

/* A copy of exactly the input's size, so that the address sanitizer sees a read behind it. */
static int replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	struct stat st;
	size_t size;

	if (!file || fstat(fileno(file), &st) != 0) {
		perror(path);
		return 1;
	}
	size = (size_t)st.st_size;
	data = malloc(size ? size : 1);
	if (!data || fread(data, 1, size, file) != size) {
		fprintf(stderr, "%s: cannot be read\n", path);
		free(data);
		fclose(file);
		return 1;
	}
	fclose(file);
	fprintf(stderr, "%s\n", path); /* the last one before a crash is the culprit */
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	input_count++;
	return 0;
}

static int replay_directory(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int failed = 0;

	if (!dir) {
		perror(path);
		return 1;
	}
	while ((entry = readdir(dir))) {
		char file[4096];
		struct stat st;

		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (stat(file, &st) == 0 && S_ISREG(st.st_mode))
			failed |= replay_file(file);
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (stat(argv[i], &st) != 0)
			printf("%s: not there, nothing to replay\n", argv[i]);
		else if (S_ISDIR(st.st_mode))
			failed |= replay_directory(argv[i]);
		else
			failed |= replay_file(argv[i]);
	}
	printf("%u inputs\n", input_count);
	return failed;
}
