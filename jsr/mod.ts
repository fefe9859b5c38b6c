/**
 * Native key–value stores for Fedify: the npm package `fedify-kv`, for Deno.
 *
 * @module
 */
export * from "npm:fedify-kv@0.1.0";
