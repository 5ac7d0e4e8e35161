/* Codes and scores of the rows in rows.bin: what the call returned, the codes that texts, whole numbers and nulls have,
   and the scores, all as 64 bits, to scores.bin. Of a category a row has 4 bytes (0 null, 1 text, 2 a whole number), 4
   bytes for the length of its text, 8 for the number, and the text. */
#include "model.c"
#include <stdio.h>

static int32_t code_of(int category, FILE *in)
{
    static char text[2048];
    int32_t kind = 0, bytes = 0;
    int64_t value = 0;
    fread(&kind, sizeof kind, 1, in);
    fread(&bytes, sizeof bytes, 1, in);
    fread(&value, sizeof value, 1, in);
    if (bytes > 0)
        fread(text, 1, (size_t)bytes, in);
    if (kind == 1)
        return model_text_code(category, text, (size_t)bytes);
    return kind == 2 ? model_whole_code(category, value) : model_null_code(category);
}

int main(void)
{
#if FEATURES
    static NUMBER row[FEATURES];
#endif
    static int32_t codes[CATEGORIES];
    static SCORE scores[OUTPUTS];
    int32_t rows = 0;
    FILE *in = fopen("rows.bin", "rb"), *out = fopen("scores.bin", "wb");
    if (!in || !out || fread(&rows, sizeof rows, 1, in) != 1)
        return 2;
    for (; rows > 0; rows--) {
        int64_t refused;
        int k;
#if FEATURES
        if (fread(row, sizeof row, 1, in) != 1)
            return 3;
#endif
        for (k = 0; k < CATEGORIES; k++)
            codes[k] = code_of(k, in);
        refused = model_scores(GIVEN, scores);
        fwrite(&refused, sizeof refused, 1, out);
        for (k = 0; k < CATEGORIES; k++) {
            const int64_t code = codes[k];
            fwrite(&code, sizeof code, 1, out);
        }
        for (k = 0; k < OUTPUTS; k++) {
            const int64_t score = refused ? 0 : scores[k];
            fwrite(&score, sizeof score, 1, out);
        }
    }
    return fclose(out);
}
