/** Real documents stay below ten; what goes much deeper exhausts the stack of whoever writes it again. */
const MAX_DEPTH = 100;

/** As `JSON.parse`, but what is nested too deeply is a SyntaxError too. */
export function parseJson(text: string): unknown {
  const json: unknown = JSON.parse(text);
  // Level by level: `JSON.parse` itself takes any depth, recursion here would not.
  let level: unknown[] = [json];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) throw new SyntaxError(`JSON nested more than ${MAX_DEPTH} levels deep`);
    level = level.flatMap((value) =>
      typeof value === 'object' && value !== null ? Object.values(value) : [],
    );
  }
  return json;
}
