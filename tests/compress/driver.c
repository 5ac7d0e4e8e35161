/* Scores of the rows in rows.bin: what the call returned and the scores, all as 64 bits, to scores.bin. */
#include "model.c"
#include <stdio.h>

int main(void)
{
    static NUMBER row[FEATURES];
    static SCORE scores[OUTPUTS];
    FILE *in = fopen("rows.bin", "rb"), *out = fopen("scores.bin", "wb");
    if (!in || !out)
        return 2;
    while (fread(row, sizeof row, 1, in) == 1) {
        const int64_t refused = model_scores(row, scores);
        int k;
        fwrite(&refused, sizeof refused, 1, out);
        for (k = 0; k < OUTPUTS; k++) {
            const int64_t score = refused ? 0 : scores[k];
            fwrite(&score, sizeof score, 1, out);
        }
    }
    return fclose(out);
}
